interface Known<T> {
  readonly untilMs: number;
  readonly value: Promise<T>;
}

/**
 * `ask`, at most once per `ttlMs` for each `owner`: what many clients ask for every second is read from PostgreSQL once.
 * Who asks while it is being read waits for the same answer; a failure is not remembered.
 */
export function cached<O extends object, T>(ttlMs: number, ask: (owner: O) => Promise<T>): (owner: O) => Promise<T> {
  const known = new WeakMap<O, Known<T>>();
  return (owner) => {
    const last = known.get(owner);
    if (last && last.untilMs > Date.now()) return last.value;
    const value = ask(owner);
    const entry = { untilMs: Date.now() + ttlMs, value };
    known.set(owner, entry);
    value.catch(() => known.get(owner) === entry && known.delete(owner));
    return value;
  };
}
