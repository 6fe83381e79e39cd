package image_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"svcproxy/test/nstest"
)

// helperEnv makes the test binary a program that says hello, as host:svcproxy inside a root.
const helperEnv = "IMAGE_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		fmt.Println("hello from", os.Args[0])
		syscall.Exit(0)
	}
	nstest.Main(m)
}

// The whole package once more as an ordinary user, to whom everything must belong.
func TestOrdinaryUser(t *testing.T) {
	nstest.Unprivileged(t, "^Test(Host|Store|OCI|Docker|Hostile|Library|RootFS|User|Remove)")
}
