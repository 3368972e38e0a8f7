import { useId } from 'preact/hooks';

interface Props<Value extends number | undefined> {
  readonly label: string;
  readonly hint?: string;
  readonly min: number;
  readonly max: number;
  readonly step: number;
  readonly value: Value;
  /** What an empty field means, where it may be empty. */
  readonly placeholder?: undefined extends Value ? string : never;
  readonly onChange: (value: Value) => void;
}

/** A number between bounds; while what is typed is not one, the form cannot be sent. */
export function NumberField<Value extends number | undefined>(props: Props<Value>) {
  const { label, hint, min, max, step, value, placeholder, onChange } = props;
  const id = useId();
  const change = ({ value, valueAsNumber, validity }: HTMLInputElement) => {
    if (value !== '') onChange(valueAsNumber as Value);
    else if (placeholder !== undefined && !validity.badInput) onChange(undefined as Value);
  };
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        type="number"
        inputMode="decimal"
        required={placeholder === undefined}
        min={min}
        max={max}
        step={step}
        value={value ?? ''}
        placeholder={placeholder}
        aria-describedby={hint && `${id}-hint`}
        onInput={({ currentTarget }) => change(currentTarget)}
      />
      {hint && <small id={`${id}-hint`}>{hint}</small>}
    </div>
  );
}
