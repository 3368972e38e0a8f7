import { type Environment, Interpreter } from '@huggingface/jinja';
import { IntFlashError } from '@int-flash/ops';

/** What a template may use up. Chat templates of known models stay below a tenth of each. */
export const TEMPLATE_LIMITS = {
  /** Nodes evaluated and items looped over. */
  steps: 500_000,
  /** Length of any text, the output included. */
  textLength: 2 ** 20,
  /** Length of all texts that operators, filters and calls make, together. */
  producedLength: 2 ** 25,
  /** Items of any list; also the longest `range`. */
  listLength: 10_000,
  /** Calls inside calls. */
  callDepth: 64,
} as const;

/** The parts of the library's syntax tree and values that are looked at here. */
interface Node {
  readonly type: string;
  readonly [field: string]: unknown;
}
interface Value {
  readonly type: string;
  readonly value: unknown;
}
type Evaluate = Interpreter['evaluate'];
type LibraryValue = ReturnType<Evaluate>;
type LibraryNode = Parameters<Evaluate>[0];
type Scope = Parameters<Evaluate>[1];

/** Stands in the tree for an expression that is evaluated already. */
class Held {
  readonly type = 'Held';
  readonly held: LibraryValue;

  constructor(held: LibraryValue) {
    this.held = held;
  }
}

const BLOCKS = ['body', 'alternate', 'defaultBlock'];
/** Filters that write a list out. */
const SPELLING = new Set(['join', 'string', 'tojson']);
/** Filters that look at a list without going through it. */
const LOOKING = new Set(['default', 'first', 'last', 'length', 'list', 'safe']);
const PRODUCERS = new Set(['BinaryExpression', 'FilterExpression', 'CallExpression', 'MemberExpression']);

/**
 * The library's interpreter with a meter on it. Each node costs a step; each text and list it returns is measured; and operands are
 * evaluated first and measured before an operation that could make something large of them.
 *
 * It overrides only `evaluate`, which is public and which the library calls for every node.
 */
export class MeteredInterpreter extends Interpreter {
  #steps = 0;
  #produced = 0;
  #callDepth = 0;
  readonly #printed: ReadonlySet<unknown>;

  /** @param program The parsed template, to know which expressions are printed rather than used. */
  constructor(environment: Environment, program: unknown) {
    super(environment);
    this.#printed = printedNodes(program);
  }

  override evaluate(statement: LibraryNode, scope: Scope): LibraryValue {
    const node = statement as unknown as Node | Held | undefined;
    if (node instanceof Held) return node.held;
    this.#spend(1);
    if (node === undefined) return super.evaluate(statement, scope);
    const isCall = node.type === 'CallExpression' || node.type === 'CallStatement';
    if (isCall && ++this.#callDepth > TEMPLATE_LIMITS.callDepth) throw over('calls nested', TEMPLATE_LIMITS.callDepth);
    const value = super.evaluate(this.#prepare(node, scope) as unknown as LibraryNode, scope);
    if (isCall) this.#callDepth--; // an error ends the rendering, and the only ones caught, break and continue, stay in their call
    this.#measure(value, node);
    return value;
  }

  /** Evaluates what an operation works on and looks at its size before the operation runs. */
  #prepare(node: Node, scope: Scope): Node {
    switch (node.type) {
      case 'For':
        return this.#prepareLoop(node, scope);
      case 'BinaryExpression':
        return this.#prepareOperands(node, scope);
      case 'FilterExpression':
        return this.#prepareFilter(node, scope);
      case 'FilterStatement': {
        const block = new Held(super.evaluate({ type: 'Program', body: node.body } as unknown as LibraryNode, scope));
        return this.#prepareFilter({ type: 'FilterExpression', operand: block, filter: node.filter }, scope);
      }
      case 'CallExpression':
        return this.#prepareCall(node, scope);
      default:
        return node;
    }
  }

  #prepareLoop(node: Node, scope: Scope): Node {
    const source = node.iterable as Node;
    const filtered = source.type === 'SelectExpression';
    const items = this.#hold((filtered ? source.lhs : source) as Node, scope);
    this.#spend(2 * listLength(items.held)); // a scope and a loop object each
    return copyWith(node, { iterable: filtered ? copyWith(source, { lhs: items }) : items });
  }

  #prepareOperands(node: Node, scope: Scope): Node {
    const operator = (node.operator as Value).value;
    if (operator === 'and' || operator === 'or') return node; // the right side may not be evaluated at all
    const left = this.#hold(node.left as Node, scope);
    const right = this.#hold(node.right as Node, scope);
    if (operator === '~' || operator === '==' || operator === '!=' || isText(left.held) || isText(right.held)) {
      // Comparing or joining a list with a text spells the list out.
      this.#checkSpelled(left.held);
      this.#checkSpelled(right.held);
    }
    return copyWith(node, { left, right });
  }

  #prepareFilter(node: Node, scope: Scope): Node {
    const operand = this.#hold(node.operand as Node, scope);
    const filter = node.filter as Node;
    const name = String((filter.type === 'CallExpression' ? (filter.callee as Value) : filter).value);
    if (!LOOKING.has(name)) this.#spend(listLength(operand.held));
    if (SPELLING.has(name)) this.#checkSpelled(operand.held);
    if (filter.type !== 'CallExpression') return copyWith(node, { operand });
    const args = this.#holdArguments(filter, scope);
    this.#checkGrowth(name, operand.held, args.values);
    return copyWith(node, { operand, filter: copyWith(filter, { args: args.nodes }) });
  }

  #prepareCall(node: Node, scope: Scope): Node {
    const args = this.#holdArguments(node, scope);
    const callee = node.callee as Node;
    if (callee.type !== 'MemberExpression') return copyWith(node, { args: args.nodes });
    const object = this.#hold(callee.object as Node, scope);
    this.#checkGrowth(String((callee.property as Value).value), object.held, args.values);
    return copyWith(node, { callee: copyWith(callee, { object }), args: args.nodes });
  }

  #hold(node: Node, scope: Scope): Held {
    return node instanceof Held ? node : new Held(this.evaluate(node as unknown as LibraryNode, scope));
  }

  #holdArguments(call: Node, scope: Scope): { nodes: Node[]; values: LibraryValue[] } {
    const values: LibraryValue[] = [];
    const nodes = (call.args as Node[]).map((argument) => {
      // `selectattr` and `rejectattr` want to see that theirs are literals.
      if (argument.type === 'StringLiteral') {
        values.push(argument as unknown as LibraryValue); // it has a `value` too
        return argument;
      }
      const field =
        argument.type === 'KeywordArgumentExpression' ? 'value' : argument.type.includes('Spread') ? 'argument' : '';
      const held = this.#hold((field ? argument[field] : argument) as Node, scope);
      values.push(held.held);
      return field ? copyWith(argument, { [field]: held }) : (held as unknown as Node);
    });
    return { nodes, values };
  }

  /** Bounds what a filter or method makes of its operand: the operations whose result can be much larger than what goes in. */
  #checkGrowth(name: string, operand: LibraryValue, args: readonly LibraryValue[]): void {
    const texts = args.flatMap((arg) => (typeof arg?.value === 'string' ? [arg.value] : []));
    const number = args.reduce((max, arg) => (typeof arg?.value === 'number' ? Math.max(max, arg.value) : max), 0);
    const size =
      typeof operand.value === 'string' ? operand.value.length : SPELLING.has(name) ? this.#checkSpelled(operand) : 0;
    if (name === 'replace' && typeof operand.value === 'string') {
      const [old = '', replacement = ''] = texts;
      checkLength(size + countOf(operand.value, old) * replacement.length, 2 * TEMPLATE_LIMITS.textLength);
    }
    if (name === 'join') {
      const items = typeof operand.value === 'string' ? size : listLength(operand);
      checkLength(size + items * (texts[0]?.length ?? 0), 2 * TEMPLATE_LIMITS.textLength);
    }
    if (name === 'indent' || name === 'tojson') {
      checkLength(number, 64);
      checkLength((size + 1) * (1 + number), 64 * TEMPLATE_LIMITS.textLength);
    }
    if (name === 'split' && typeof operand.value === 'string') {
      const pieces = countOf(operand.value, texts[0] ?? ' ') + 1;
      if (pieces > TEMPLATE_LIMITS.listLength) throw over('items in a list', TEMPLATE_LIMITS.listLength);
    }
  }

  #measure(value: LibraryValue, node: Node): void {
    if (value === undefined) return; // `first` of an empty list
    if (typeof value.value === 'string') {
      checkLength(value.value.length, TEMPLATE_LIMITS.textLength);
      if (!PRODUCERS.has(node.type)) return;
      this.#produced += value.value.length;
      if (this.#produced > TEMPLATE_LIMITS.producedLength)
        throw over('characters made', TEMPLATE_LIMITS.producedLength);
      return;
    }
    const length = listLength(value);
    if (length > TEMPLATE_LIMITS.listLength) throw over('items in a list', TEMPLATE_LIMITS.listLength);
    if (this.#printed.has(node)) this.#checkSpelled(value);
  }

  /** Length of a list or mapping when spelled out, about; shared parts count as often as they would be written. */
  #checkSpelled(root: LibraryValue): number {
    let length = 0;
    const stack: Value[] = [root as Value];
    for (let value = stack.pop(); value !== undefined; value = stack.pop()) {
      length += typeof value?.value === 'string' ? value.value.length + 4 : 4;
      if (length > TEMPLATE_LIMITS.textLength)
        throw over('characters of a list written out', TEMPLATE_LIMITS.textLength);
      if (Array.isArray(value?.value)) for (const item of value.value as Value[]) stack.push(item);
      else if (value?.value instanceof Map) {
        for (const [key, entry] of value.value as Map<string, Value>) {
          length += key.length + 4;
          stack.push(entry);
        }
      }
    }
    return length;
  }

  #spend(steps: number): void {
    this.#steps += steps;
    if (this.#steps > TEMPLATE_LIMITS.steps) throw over('steps', TEMPLATE_LIMITS.steps);
  }
}

/** The same kind of node with some fields replaced; the parsed tree itself stays as it is. */
function copyWith(node: Node, fields: Readonly<Record<string, unknown>>): Node {
  return Object.assign(Object.create(Object.getPrototypeOf(node)), node, fields);
}

function listLength(value: LibraryValue): number {
  const inner: unknown = value?.value;
  return Array.isArray(inner) ? inner.length : inner instanceof Map ? inner.size : 0;
}

function isText(value: LibraryValue): boolean {
  return typeof value?.value === 'string';
}

function checkLength(length: number, max: number): void {
  if (length > max) throw over('characters in a text', max);
}

function countOf(text: string, part: string): number {
  if (part === '') return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count++;
  return count;
}

/** Expressions that stand by themselves in a block: their value is written out, lists included. */
function printedNodes(program: unknown): ReadonlySet<unknown> {
  const printed = new Set<unknown>();
  const seen = new Set<unknown>();
  const stack: unknown[] = [program];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (typeof node !== 'object' || node === null || seen.has(node)) continue;
    seen.add(node);
    if (node instanceof Map) for (const entry of node) stack.push(...entry);
    else {
      for (const field of BLOCKS) {
        const block = (node as Record<string, unknown>)[field];
        if (Array.isArray(block)) for (const statement of block) printed.add(statement);
      }
      for (const child of Object.values(node)) stack.push(child);
    }
  }
  return printed;
}

export function over(what: string, max: number): IntFlashError {
  return new IntFlashError('ERR_TEMPLATE_LIMIT', `Expected the template to stay within ${max} ${what}, got more`);
}
