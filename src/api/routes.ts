import type { Route } from './route.ts';
import { cdcRoutes } from './routes/cdc.ts';
import { sinkRoutes } from './routes/sinks.ts';

/** Every route there is; a new noun is one file in `routes/` and one line here. */
export const ROUTES: readonly Route[] = [...cdcRoutes, ...sinkRoutes];
