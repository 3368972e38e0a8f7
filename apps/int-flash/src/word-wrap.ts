/** Breaks a stream of text between words, so that nothing runs past the last column. Pieces may split words anywhere. */
export class WordWrap {
  private column = 0;
  private word = '';
  /** A space is held back until it is known whether the next word still fits. */
  private space = '';

  constructor(
    private readonly width: number,
    private readonly indent: string,
  ) {}

  /** Text that is ready to be shown; the last word stays back until it is complete. */
  push(text: string): string {
    let out = '';
    for (const char of text) {
      if (char === '\n') out += `${this.placeWord()}${this.breakLine()}`;
      else if (char === ' ' || char === '\t') {
        out += this.placeWord();
        this.space = this.column > 0 ? ' ' : '';
      } else this.word += char;
    }
    return out;
  }

  end(): string {
    return this.placeWord();
  }

  private placeWord(): string {
    if (this.word === '') return '';
    let out = '';
    const length = [...this.word].length;
    if (this.column > 0 && this.column + this.space.length + length > this.width) out += this.breakLine();
    if (this.column === 0) out += this.indent;
    out += this.space + this.word;
    this.column += this.space.length + length;
    this.space = '';
    this.word = '';
    return out;
  }

  private breakLine(): string {
    this.column = 0;
    this.space = '';
    return '\n';
  }
}
