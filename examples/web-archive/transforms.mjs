/**
 * Tags as people write them become tags as they are searched: lower case, no blanks around, each once. The same for the same
 * row, whether it comes by the first copy, a later one or the stream.
 *
 * @type {import('waltide').Transform}
 */
export default function tidyTags(row) {
  return { ...row, tags: row.tags ? toArray(fromArray(row.tags).map((tag) => tag.trim().toLowerCase())) : row.tags };
}

/** PostgreSQL's text of a text[]: {a,"b c",NULL}. */
export function fromArray(text) {
  return [...text.slice(1, -1).matchAll(/"((?:[^"\\]|\\.)*)"|([^,]+)/g)].map(([, quoted, plain]) =>
    quoted === undefined ? plain : quoted.replace(/\\(.)/g, '$1'),
  );
}

function toArray(tags) {
  return `{${[...new Set(tags)].map((tag) => `"${tag.replace(/["\\]/g, '\\$&')}"`).join(',')}}`;
}
