package world

import (
	"flag"
	"testing"

	"svcproxy/test/nstest"
)

// Making and ending worlds is mostly waiting for the kernel, so more tests run at once than there are processors.
const parallel = "8"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err)
	}
	nstest.Main(m)
}
