export { type CpuBackendOptions, cpuStatus, createCpuBackend, supportedIsas } from './cpu-backend.js';
export { createPortableBackend } from './portable-backend.js';
