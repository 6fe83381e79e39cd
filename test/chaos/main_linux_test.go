// Package chaos kills svcproxy at the worst moments, over and over, and looks at what its next start makes of
// the kernel, and at connections that should notice nothing.
package chaos

import (
	"testing"

	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
