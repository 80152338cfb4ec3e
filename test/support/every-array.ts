import { TYPES, type TypeCase } from './every-type.ts';

/** As in an array's text: always in quotes, so that nothing in it means anything. */
const quoted = (text: string): string => `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;

/** Longer ones are exercised as columns. */
const CHARACTERS_MAX = 200;

/**
 * An array of every type that is none itself: empty, all NULL, all of its values at once, and the shapes that a LIST
 * cannot hold, up to PostgreSQL's six dimensions.
 */
export const ARRAYS: readonly TypeCase[] = TYPES.filter(({ type }) => !type.endsWith('[]') && type !== 'box').map(
  ({ type, values, typed }) => {
    const elements = values.filter((value) => value.length <= CHARACTERS_MAX).map(quoted);
    const [a = 'NULL'] = elements;
    const b = elements.at(-1) ?? a;
    return {
      type: `${type}[]`,
      typed: `${typed === undefined || typed === 'ENUM' || typed.endsWith('[]') ? 'VARCHAR' : typed}[]`,
      values: ['{}', '{NULL,NULL}', `{${elements.join(',')}}`, `{${b},NULL,${a}}`],
      wide: [`{{${a},${b}},{${b},NULL}}`, `[0:1]={${a},${b}}`, `[-3:-2][5:5]={{${a}},{NULL}}`, `{{{{{{${a}}}}}}}`],
    };
  },
);
