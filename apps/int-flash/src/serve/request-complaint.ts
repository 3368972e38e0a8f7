import type { z } from 'zod';

const UNITS: Readonly<Record<string, string>> = { string: ' characters', array: ' elements' };

/** What is wrong with a request, for the client to read. */
export interface Complaint {
  readonly message: string;
  /** The parameter at fault; undefined where it is the request as a whole, or nothing that could be a parameter's name. */
  readonly param: string | undefined;
  readonly isUnknown: boolean;
}

/** The first of what zod found, in the words of this project's other errors. */
export function complaintOf(error: z.core.$ZodError): Complaint {
  const issue = deepest(error.issues[0]!);
  if (issue.code === 'unrecognized_keys') {
    const name = [...issue.path, issue.keys[0]!].join('.').slice(0, 64);
    const known = printable(name);
    return {
      message: `This server does not know the parameter${known ? ` ${known}` : ''}.`,
      param: known,
      isUnknown: true,
    };
  }
  const param = printable(issue.path.join('.').slice(0, 64));
  return { message: inOurWords(issue, param ?? 'the request'), param, isUnknown: false };
}

/** A message of our own as it is. */
function inOurWords(issue: z.core.$ZodIssue, name: string): string {
  if (!/^(Invalid|Too)/.test(issue.message)) return issue.message;
  if (issue.code === 'too_big')
    return bound(issue.origin, name, issue.inclusive === false ? 'below' : 'at most', issue.maximum);
  if (issue.code === 'too_small')
    return bound(issue.origin, name, issue.inclusive === false ? 'above' : 'at least', issue.minimum);
  if (issue.code === 'not_multiple_of') return `Expected ${name} to be a multiple of ${issue.divisor}.`;
  if (issue.code === 'invalid_value') return choices(name, issue.values);
  if (issue.code === 'invalid_union' && 'options' in issue) return choices(name, issue.options ?? []); // told apart by a field
  if (issue.code === 'invalid_type') return `Expected ${name} to be of type ${issue.expected}.`;
  return `${name}: ${issue.message}.`;
}

function choices(name: string, values: readonly unknown[]): string {
  return `Expected ${name} to be ${values.map((value) => JSON.stringify(value)).join(' or ')}.`;
}

function bound(origin: string, name: string, which: string, limit: number | bigint): string {
  const units = UNITS[origin];
  return `Expected ${name} to ${units ? 'have' : 'be'} ${which} ${limit}${units ?? ''}.`;
}

/** Of the branches of a union, the complaint of the one that got furthest; a branch for another type than was given got no further than to what holds it. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue;
  const branches = issue.errors
    .flatMap((branch) => branch.slice(0, 1))
    .map((inner) => ({ ...deepest(inner), path: [...issue.path, ...deepest(inner).path] }));
  const reach = ({ path, code }: z.core.$ZodIssue) => 2 * path.length + (code === 'invalid_type' ? -2 : 1);
  return branches.sort((a, b) => reach(b) - reach(a))[0] ?? issue;
}

/** Names of parameters come from the client; only what could be one is repeated. */
function printable(name: string): string | undefined {
  return /^[\w.-]+$/.test(name) ? name : undefined;
}
