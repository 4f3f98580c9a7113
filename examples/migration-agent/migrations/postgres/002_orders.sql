-- What they buy.
-- requires: 001_customers

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer bigint NOT NULL REFERENCES customers (id),
    cents bigint NOT NULL
);

INSERT INTO orders (customer, cents) VALUES (1, 1200), (1, 300), (2, 4500);
