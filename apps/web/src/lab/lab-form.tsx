import { useState } from 'preact/hooks';
import { NumberField } from '../shell/number-field';
import { FAMILIES, HEAD_COUNTS, HEAD_DIMS, TOKEN_COUNTS, VARIANTS } from './lab-choices';
import type { LabRequest } from './lab-request';

interface Props {
  readonly running: boolean;
  readonly onStart: (request: LabRequest) => void;
  readonly onStop: () => void;
}

const FIRST: LabRequest = {
  family: 'sink',
  tokens: 1024,
  heads: 4,
  headDim: 64,
  isCausal: false,
  seed: 1,
  variants: VARIANTS.map(({ value }) => value),
};

export function LabForm({ running, onStart, onStop }: Props) {
  const [request, setRequest] = useState(FIRST);
  const change = (part: Partial<LabRequest>) => setRequest((current) => ({ ...current, ...part }));
  const toggle = (variant: string) =>
    setRequest((current) => {
      const isChosen = (value: string) => current.variants.includes(value) !== (value === variant);
      return { ...current, variants: VARIANTS.map(({ value }) => value).filter(isChosen) };
    });

  return (
    <form
      class="lab-form"
      onSubmit={(event) => {
        event.preventDefault();
        if (!running) onStart(request);
      }}
    >
      <fieldset>
        <legend>Distribution</legend>
        <div class="choices">
          {FAMILIES.map(({ value, title, says }) => (
            <label key={value} class="choice">
              <input
                type="radio"
                name="family"
                value={value}
                checked={request.family === value}
                onChange={() => change({ family: value })}
              />
              <span>
                {title}
                <small>{says}</small>
              </span>
            </label>
          ))}
        </div>
      </fieldset>
      <fieldset>
        <legend>Shape</legend>
        <div class="shape">
          <Select
            label="Tokens"
            options={TOKEN_COUNTS}
            value={request.tokens}
            onChange={(tokens) => change({ tokens })}
          />
          <Select label="Heads" options={HEAD_COUNTS} value={request.heads} onChange={(heads) => change({ heads })} />
          <Select
            label="Head dimension"
            options={HEAD_DIMS}
            value={request.headDim}
            onChange={(headDim) => change({ headDim })}
          />
          <NumberField
            label="Seed"
            value={request.seed}
            min={0}
            max={2 ** 31 - 1}
            step={1}
            onChange={(seed) => change({ seed })}
          />
        </div>
        <label class="check">
          <input type="checkbox" checked={request.isCausal} onChange={() => change({ isCausal: !request.isCausal })} />
          <span>Causal</span>
        </label>
      </fieldset>
      <fieldset>
        <legend>Arithmetic</legend>
        {VARIANTS.map(({ value, title, says }) => (
          <label key={value} class="choice">
            <input type="checkbox" checked={request.variants.includes(value)} onChange={() => toggle(value)} />
            <span>
              {title}
              <small>{says}</small>
            </span>
          </label>
        ))}
      </fieldset>
      <div class="lab-run">
        {running ? (
          // Keys, so that a click on one is over before the other is there: one element turned into the other would act on it too.
          <button key="stop" type="button" class="primary" onClick={onStop}>
            Stop
          </button>
        ) : (
          <button key="run" type="submit" class="primary" disabled={request.variants.length === 0}>
            Run on the server
          </button>
        )}
      </div>
    </form>
  );
}

interface SelectProps {
  readonly label: string;
  readonly options: readonly number[];
  readonly value: number;
  readonly onChange: (value: number) => void;
}

function Select({ label, options, value, onChange }: SelectProps) {
  return (
    <label class="field">
      <span>{label}</span>
      <select value={value} onChange={({ currentTarget }) => onChange(Number(currentTarget.value))}>
        {options.map((option) => (
          <option key={option} value={option}>
            {option.toLocaleString('en')}
          </option>
        ))}
      </select>
    </label>
  );
}
