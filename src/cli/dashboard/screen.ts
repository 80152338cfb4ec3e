import { emitKeypressEvents } from 'node:readline';
import type { Size } from './render.ts';

/** What a terminal takes: process.stdout where it is one. */
export interface TerminalOutput {
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
  write(text: string): boolean;
  on(event: 'resize' | 'drain', listener: () => void): unknown;
  off(event: 'resize' | 'drain', listener: () => void): unknown;
}

/** What keys come from: process.stdin. */
export interface TerminalInput extends NodeJS.ReadableStream {
  readonly isTTY?: boolean | undefined;
  setRawMode?(on: boolean): unknown;
  unref?(): unknown;
}

export interface ScreenOptions {
  readonly output: TerminalOutput;
  /** Null where there are no keys to be had. */
  readonly input: TerminalInput | null;
  /** By readline's name: `up`, `pagedown`, `q`; with Ctrl, `ctrl-c`. */
  readonly onKey: (key: string) => void;
  readonly onResize: () => void;
}

const ESC = '\u001b[';
// The alternate screen, no cursor, and no wrapping: where a terminal takes a character for wider than we do, a line is
// cut off rather than moving everything below it.
const ENTER = `${ESC}?1049h${ESC}?25l${ESC}?7l${ESC}2J`;
const LEAVE = `${ESC}?7h${ESC}?25h${ESC}0m${ESC}?1049l`;
const BEGIN_FRAME = `${ESC}?2026h${ESC}H`;
const END_FRAME = `${ESC}J${ESC}?2026l`;
const USUAL: Size = { columns: 80, rows: 24 };

interface Key {
  readonly name?: string;
  readonly sequence?: string;
  readonly ctrl?: boolean;
}

/** The terminal as long as the dashboard has it. However the process ends, short of kill -9, it is given back as it was. */
export class Screen {
  readonly #options: ScreenOptions;
  #open = false;
  #shown = '';
  #full = false;

  constructor(options: ScreenOptions) {
    this.#options = options;
  }

  get size(): Size {
    const { columns, rows } = this.#options.output;
    // A terminal that does not know its size says 0.
    return { columns: columns || USUAL.columns, rows: rows || USUAL.rows };
  }

  open(): void {
    const { input, output } = this.#options;
    this.#enter();
    output.on('resize', this.#onResize);
    output.on('drain', this.#onDrain);
    if (input) {
      emitKeypressEvents(input);
      input.on('keypress', this.#onKey);
    }
    process.on('exit', this.#leave);
    process.prependListener('uncaughtException', this.#leave);
    process.on('SIGHUP', this.#onHangUp);
    process.on('SIGCONT', this.#onContinue);
  }

  close(): void {
    const { input, output } = this.#options;
    this.#leave();
    output.off('resize', this.#onResize);
    output.off('drain', this.#onDrain);
    input?.off('keypress', this.#onKey);
    process.off('exit', this.#leave);
    process.off('uncaughtException', this.#leave);
    process.off('SIGHUP', this.#onHangUp);
    process.off('SIGCONT', this.#onContinue);
  }

  /** Puts these lines there. A slow terminal gets the newest only. */
  show(lines: readonly string[]): void {
    if (!this.#open || this.#full) return;
    // Erased first: after a full line the cursor stands on its last column, which would go.
    const text = lines.map((one) => `${ESC}2K${one}`).join('\r\n');
    if (text === this.#shown) return;
    this.#shown = text;
    this.#full = !this.#options.output.write(`${BEGIN_FRAME}${text}${END_FRAME}`);
  }

  #enter(): void {
    const { input, output } = this.#options;
    this.#open = true;
    this.#shown = '';
    output.write(ENTER);
    if (input?.isTTY) input.setRawMode?.(true);
    input?.resume();
  }

  readonly #leave = (): void => {
    if (!this.#open) return;
    this.#open = false;
    const { input, output } = this.#options;
    if (input?.isTTY) input.setRawMode?.(false);
    input?.pause();
    output.write(LEAVE);
  };

  readonly #onKey = (_text: string | undefined, { name, sequence, ctrl }: Key): void => {
    if (ctrl && name === 'z') this.#suspend();
    else this.#options.onKey(ctrl ? `ctrl-${name}` : (name ?? sequence ?? ''));
  };

  /** As the shell's Ctrl-Z does, which raw mode keeps from it. */
  #suspend(): void {
    this.#leave();
    process.kill(process.pid, 'SIGTSTP');
  }

  readonly #onContinue = (): void => {
    if (!this.#open) this.#enter();
    this.#options.onResize();
  };

  /** 128 + 1, as shells have it. */
  readonly #onHangUp = (): void => {
    this.#leave();
    process.exit(129);
  };

  readonly #onResize = (): void => {
    this.#shown = '';
    this.#options.onResize();
  };

  readonly #onDrain = (): void => {
    this.#full = false;
    this.#options.onResize();
  };
}
