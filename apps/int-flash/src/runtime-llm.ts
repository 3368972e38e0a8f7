import { IntFlashError } from '@int-flash/ops';
import type { Runtime } from './runtime.js';

const absent = async () => {
  throw new IntFlashError('ERR_UNSUPPORTED', 'Expected a language model runtime, got a build without one');
};

export const llmRuntime: Runtime = {
  loadModel: absent,
  describeModel: absent,
  describeBackends: absent,
  quantize: absent,
};
