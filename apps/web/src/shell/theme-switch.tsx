import { useState } from 'preact/hooks';
import { Icon } from './icon';

type Theme = 'light' | 'dark';

/** Starts as the system has it; the choice holds as long as the page is open. */
export function ThemeSwitch() {
  const [theme, setTheme] = useState<Theme>(() =>
    matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light',
  );
  const other: Theme = theme === 'dark' ? 'light' : 'dark';
  const change = () => {
    document.documentElement.dataset.theme = other;
    setTheme(other);
  };
  return (
    <button
      type="button"
      class="quiet"
      aria-label={`Use ${other} colours`}
      title={`Use ${other} colours`}
      onClick={change}
    >
      <Icon name={other} />
    </button>
  );
}
