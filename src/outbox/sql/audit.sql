-- What somebody did by hand. $1 text: who. $2 text: what. $3 jsonb: details.
insert into outbox_audit (actor, action, details) values ($1, $2, $3)
