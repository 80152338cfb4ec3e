import { leaksNothing } from '../support/leaks.ts';

leaksNothing(
  async () => ({ type: 'in-process' }),
  async () => '',
);
