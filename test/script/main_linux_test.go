package script

import (
	"flag"
	"testing"

	"svcproxy/test/nstest"
)

// Scripts wait for the kernel and for silence most of the time, so more of them run at once than there are
// processors.
const parallel = "8"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	nstest.Main(m)
}
