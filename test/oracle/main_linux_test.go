package oracle

import (
	"flag"
	"strconv"
	"testing"

	"svcproxy/test/nstest"
)

// TestMain sets how many sequences of clusters each test draws; -rapid.checks says otherwise.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", strconv.Itoa(nstest.Sized(5, 72))); err != nil {
		panic(err)
	}
	nstest.Main(m)
}
