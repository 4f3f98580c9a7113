//! What the tests of stores against real servers share.
