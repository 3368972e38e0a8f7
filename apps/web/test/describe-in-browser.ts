import { describe } from 'vitest';
import { INSTALLED } from './browser';

// REQUIRE_BROWSER=1, set by .ci/run, turns this skip into a failure: there, a missing browser would hide a broken page.
if (INSTALLED === undefined) {
  const message =
    'No Chromium here, so the page is not tested. `apt-get install chromium`, or name one in CHROMIUM_PATH.';
  if (process.env.REQUIRE_BROWSER === '1') throw new Error(message);
  process.stderr.write(`\n*** ${message} ***\n\n`);
}

/** `describe`, skipped where there is no browser. */
export const describeInBrowser = describe.skipIf(INSTALLED === undefined);
