-- Fails with SQLSTATE 27000 when some rows are still in states that they were to leave: a trigger of somebody else's
-- skipped the update without an error, or put the state back. $1 bigint[]: ids. $2 text[]: the states. Run in the
-- transaction of the update. Changes nothing.
select outbox_expect_left($1, $2)
