import { spawnSync } from 'node:child_process';

// GPU tests skip themselves where there is no GPU. In the job that is meant to have one, a skip would hide a broken
// driver behind a green run, so REQUIRE_CUDA=1 turns it into a failure.
if (process.env.REQUIRE_CUDA === '1') {
  const listing = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8' });
  if (listing.status !== 0 || !listing.stdout.includes('GPU')) {
    const said = (listing.error?.message ?? `${listing.stdout}${listing.stderr}`).trim();
    throw new Error(`REQUIRE_CUDA=1, but nvidia-smi found no GPU: ${said || 'it printed nothing'}`);
  }
}
