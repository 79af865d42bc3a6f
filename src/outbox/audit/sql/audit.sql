-- What somebody did by hand. $1 text: who. $2 text: what. $3 jsonb: details. $4 text: why, or null.
insert into outbox_audit (actor, action, details, reason) values ($1, $2, $3, $4)
