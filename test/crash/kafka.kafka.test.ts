import { crashSuite } from './suite.ts';

crashSuite({ transport: 'kafka', rounds: 25 });
