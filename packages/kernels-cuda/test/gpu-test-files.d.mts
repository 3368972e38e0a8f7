export function gpuTestParts(): Record<string, string[]>;
export function testDigest(file: string): string;
