-- What they buy.
-- requires: 001_customers

CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers (id),
    cents INTEGER NOT NULL
);

INSERT INTO orders (customer, cents) VALUES (1, 1200), (1, 300), (2, 4500);
