-- Whether this transaction may do the scheduled retry; another one may be at it. 28514 is the class of our locks, and the keys of
-- sessions in it are not negative. Held to the end of the transaction.
select pg_try_advisory_xact_lock(28514, -1) as locked
