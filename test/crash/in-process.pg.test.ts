import { crashSuite } from './suite.ts';

crashSuite({ transport: 'in-process', rounds: 75 });
