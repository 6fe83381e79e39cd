package nstest

import "os"

// LongEnv set to 1, as `make test` does, asks for tests in their full size.
const LongEnv = "SVCPROXY_TEST_LONG"

// Sized returns how much of something a test shall do: long in the full size, short in a plain `go test`,
// which must stay quick. Both sizes test the same.
func Sized(short, long int) int {
	if os.Getenv(LongEnv) == "1" {
		return long
	}
	return short
}
