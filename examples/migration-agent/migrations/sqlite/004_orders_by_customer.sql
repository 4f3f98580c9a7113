-- requires: 002_orders
-- lock-timeout: 2s

CREATE INDEX orders_by_customer ON orders (customer);
