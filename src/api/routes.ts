import type { Route } from './route.ts';
import { cdcRoutes } from './routes/cdc.ts';
import { consistencyRoutes } from './routes/consistency.ts';
import { documentRoutes } from './routes/documents.ts';
import { operationRoutes } from './routes/operations.ts';
import { sinkRoutes } from './routes/sinks.ts';
import { waitRoutes } from './routes/wait.ts';

/* Every route there is: a new noun is one file in `routes/` and one line here. */

const nouns: readonly Route[] = [...cdcRoutes, ...sinkRoutes, ...operationRoutes, ...waitRoutes, ...consistencyRoutes];

export const ROUTES: readonly Route[] = [...nouns, ...documentRoutes(nouns)];
