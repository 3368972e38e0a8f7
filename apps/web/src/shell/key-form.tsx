import { useState } from 'preact/hooks';

/** Shown only when the server asked for a key. */
export function KeyForm({ refused, onKey }: { refused: boolean; onKey: (key: string) => void }) {
  const [key, setKey] = useState('');
  return (
    <main class="notice">
      <h1>This server wants a key</h1>
      <p>It was started with an API key. The key stays in this page’s memory until you close it.</p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          onKey(key.trim());
        }}
      >
        <label class="field">
          <span>API key</span>
          <input
            type="password"
            autocomplete="off"
            required
            value={key}
            aria-invalid={refused}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary">
          Continue
        </button>
      </form>
      {refused && <p role="alert">The server refused this key.</p>}
    </main>
  );
}
