export function gpuTestParts(): Record<string, string[]>;
