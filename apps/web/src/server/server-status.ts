/** GET /api/status. */
export interface ServerStatus {
  readonly model: string;
  readonly backend: {
    readonly name: string;
    readonly isa?: string;
    readonly threads?: number;
    readonly detail?: string;
  };
  readonly precision: string;
  readonly kvCacheDtype: string;
  /** Tokens of prompt and answer together. */
  readonly contextLength: number;
  readonly version: string;
  /** Whether the model knows conversations; without, it continues text. */
  readonly chatTemplate: boolean;
  /** What the model's makers advise. */
  readonly sampling?: { readonly temperature?: number; readonly topP?: number; readonly topK?: number };
}

/** `cpu, avx2, 2 threads`. */
export function backendInWords({ backend }: ServerStatus): string {
  const threads = backend.threads === undefined ? [] : [`${backend.threads} thread${backend.threads === 1 ? '' : 's'}`];
  return [backend.name, ...(backend.isa ? [backend.isa] : []), ...threads].join(', ');
}
