-- The shop's own likes: business data that the outbox rows tell about. Runs once, on the demo's private database.
create table demo_likes (
  id bigint primary key,
  user_id bigint not null,
  product_id bigint not null
)
