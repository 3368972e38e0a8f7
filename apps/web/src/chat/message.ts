export interface UserMessage {
  readonly id: number;
  readonly role: 'user';
  readonly text: string;
}

/** `waiting` for the first token, then `streaming`, then one of the three ends. */
export type AnswerState = 'waiting' | 'streaming' | 'done' | 'stopped' | 'failed';

export interface AnswerMessage {
  readonly id: number;
  readonly role: 'assistant';
  readonly text: string;
  readonly state: AnswerState;
  readonly pace: AnswerPace;
  /** Why it failed. */
  readonly problem?: string;
}

export type Message = UserMessage | AnswerMessage;

/** How fast an answer came. */
export interface AnswerPace {
  readonly tokens: number;
  /** Until the first token, prompt included. */
  readonly firstTokenMs?: number;
  /** Of the tokens after the first. */
  readonly tokensPerSecond?: number;
  readonly promptTokens?: number;
  /** `length`: the limit of tokens ended it. */
  readonly finishReason?: string;
}
