import type { Transform } from '../../src/protect/function.ts';

declare const tidyTags: Transform;
export default tidyTags;
/** PostgreSQL's text of a text[] as its elements. */
export function fromArray(text: string): string[];
