import { messageOf } from '../../errors.ts';
import type { Paint } from '../output.ts';
import { painted } from './line.ts';
import { type DashboardState, initialState, type Move, scrolled, seen } from './model.ts';
import type { Poll } from './poll.ts';
import { bodyRows, renderPage, renderScreen } from './render.ts';
import { Screen, type ScreenOptions } from './screen.ts';

/** Ages and the clock go on between two answers. */
const TICK_MS = 1000;

const MOVES: Record<string, Move> = {
  ...{ up: 'up', k: 'up', down: 'down', j: 'down', pageup: 'page-up', b: 'page-up', pagedown: 'page-down' },
  ...{ space: 'page-down', home: 'top', g: 'top', end: 'bottom' },
};

export interface LiveOptions extends Pick<ScreenOptions, 'input' | 'output'> {
  readonly target: string;
  readonly intervalMs: number;
  readonly poll: Poll;
  readonly paint: Paint;
  /** Ends it, as the key q does. */
  readonly signal: AbortSignal;
}

/** Shows the dashboard on the terminal until somebody ends it; then the terminal is as it was. */
export async function showLive(options: LiveOptions): Promise<void> {
  const { signal, input, output } = options;
  const live = new Live(
    options,
    new Screen({ input, output, onKey: (key) => live.key(key), onResize: () => live.draw() }),
  );
  await live.run(signal);
}

class Live {
  readonly #options: LiveOptions;
  readonly #screen: Screen;
  readonly #end = new AbortController();
  #state: DashboardState;
  #timer: NodeJS.Timeout | undefined;
  #polling = false;
  #over = false;

  constructor(options: LiveOptions, screen: Screen) {
    this.#options = options;
    this.#screen = screen;
    this.#state = initialState(options.target, options.intervalMs);
  }

  async run(signal: AbortSignal): Promise<void> {
    const ticking = setInterval(() => this.draw(), TICK_MS);
    this.#screen.open();
    try {
      this.draw();
      this.#poll();
      await aborted(AbortSignal.any([signal, this.#end.signal]));
    } finally {
      this.#over = true;
      clearInterval(ticking);
      clearTimeout(this.#timer);
      this.#screen.close();
    }
  }

  draw(): void {
    const lines = renderScreen(this.#state, this.#screen.size, Date.now());
    this.#screen.show(lines.map((one) => painted(one, this.#options.paint)));
  }

  key(key: string): void {
    if (key === 'q' || key === 'ctrl-c' || key === 'ctrl-d') this.#end.abort();
    else if (key === 'p') this.#pause();
    else if (key === 'r') this.#poll();
    else if (Object.hasOwn(MOVES, key)) this.#scroll(MOVES[key]!);
    this.draw();
  }

  #scroll(move: Move): void {
    const { size } = this.#screen;
    const lines = renderPage(this.#state, size.columns, Date.now()).length - 1;
    this.#state = scrolled(this.#state, move, lines, bodyRows(size));
  }

  #pause(): void {
    this.#state = { ...this.#state, paused: !this.#state.paused };
    if (!this.#state.paused) this.#poll();
  }

  /** One at a time, the next one `intervalMs` after this one's answer. */
  #poll(): void {
    if (this.#polling || this.#over) return;
    this.#polling = true;
    clearTimeout(this.#timer);
    this.#options
      .poll()
      .then((picture) => (this.#state = seen(this.#state, picture)))
      .catch((error: unknown) => (this.#state = { ...this.#state, failing: messageOf(error) }))
      .finally(() => {
        this.#polling = false;
        if (this.#over) return;
        this.draw();
        if (!this.#state.paused) this.#timer = setTimeout(() => this.#poll(), this.#state.intervalMs);
      });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
