/*
 * Streaming Replication Protocol (PostgreSQL manual, chapter "Frontend/Backend Protocol"): what CopyData carries.
 */

/** 'w' Int64 start, Int64 end of WAL, Int64 clock, then the message. */
export const XLOG_DATA = 0x77;
/** 'k' Int64 end of WAL, Int64 clock, Byte1 reply wanted. */
export const KEEPALIVE = 0x6b;
/** 'r' Int64 written, flushed, applied, clock, Byte1 reply wanted. */
export const STANDBY_STATUS = 0x72;
/** Offset of XLogData's own message in its CopyData message: after type, length and header. */
export const XLOG_DATA_AT = 30;
