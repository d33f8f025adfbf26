"""Settings with which this feature's tests take less time."""

# A hash that costs a guesser little, and two hundred tests as well. One test takes the usual cost: it needs to last.
HURRY = {"ACCOUNTS_ARGON2_MEMORY_KIB": "8192", "ACCOUNTS_ARGON2_PASSES": "1", "ACCOUNTS_ARGON2_LANES": "1"}
