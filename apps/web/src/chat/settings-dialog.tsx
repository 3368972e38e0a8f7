import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon } from '../shell/icon';
import { NumberField } from '../shell/number-field';
import type { SamplingSettings } from './sampling-settings';

interface Props {
  readonly settings: SamplingSettings;
  readonly defaults: SamplingSettings;
  /** Tokens. */
  readonly contextLength: number;
  readonly chatTemplate: boolean;
  readonly onSave: (settings: SamplingSettings) => void;
  readonly onClose: () => void;
}

const MAX_SEED = 2 ** 31 - 1; // what every client of the API can send

/** A modal dialog: the browser keeps the focus inside, closes it on Escape and gives the focus back. */
export function SettingsDialog({ settings, defaults, contextLength, chatTemplate, onSave, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [draft, setDraft] = useState(settings);
  const change = (part: Partial<SamplingSettings>) => setDraft((current) => ({ ...current, ...part }));

  useEffect(() => dialog.current!.showModal(), []);

  return (
    <dialog ref={dialog} class="settings" aria-labelledby="settings-title" onClose={onClose}>
      <form method="dialog" onSubmit={() => onSave(draft)}>
        <header>
          <h2 id="settings-title">Settings</h2>
          <button type="button" class="quiet" aria-label="Close without saving" onClick={() => dialog.current!.close()}>
            <Icon name="close" />
          </button>
        </header>
        {chatTemplate && (
          <label class="field">
            <span>System prompt</span>
            <textarea
              rows={3}
              value={draft.system}
              placeholder="None"
              onInput={(event) => change({ system: event.currentTarget.value })}
            />
          </label>
        )}
        <div class="pair">
          <NumberField
            label="Temperature"
            hint="0 always takes the likeliest token"
            value={draft.temperature}
            min={0}
            max={2}
            step={0.01}
            onChange={(temperature) => change({ temperature })}
          />
          <NumberField
            label="Top p"
            hint="share of the probability that may be drawn from"
            value={draft.topP}
            min={0.01}
            max={1}
            step={0.01}
            onChange={(topP) => change({ topP })}
          />
        </div>
        <div class="pair">
          <NumberField
            label="Answer length"
            hint={`tokens, of ${contextLength} for everything`}
            value={draft.maxTokens}
            min={1}
            max={contextLength}
            step={1}
            onChange={(maxTokens) => change({ maxTokens })}
          />
          <NumberField
            label="Seed"
            hint="same seed and settings, same answer"
            placeholder="Random"
            value={draft.seed}
            min={0}
            max={MAX_SEED}
            step={1}
            onChange={(seed) => change({ seed })}
          />
        </div>
        <footer>
          <button type="button" class="plain-button" onClick={() => setDraft(defaults)}>
            Model’s own
          </button>
          <button type="submit" class="primary">
            Save
          </button>
        </footer>
      </form>
    </dialog>
  );
}
