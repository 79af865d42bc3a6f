-- The shop's own orders: business data that the outbox rows tell about. Runs once, on the demo's private database.
create table demo_orders (
  id bigint primary key,
  user_id bigint not null,
  lines jsonb not null,
  state text not null default 'placed' check (state in ('placed', 'paid', 'cancelled'))
)
