import type { Route } from './route.ts';
import { cdcRoutes } from './routes/cdc.ts';
import { documentRoutes } from './routes/documents.ts';
import { sinkRoutes } from './routes/sinks.ts';

/* Every route there is: a new noun is one file in `routes/` and one line here. */

const nouns: readonly Route[] = [...cdcRoutes, ...sinkRoutes];

export const ROUTES: readonly Route[] = [...nouns, ...documentRoutes(nouns)];
