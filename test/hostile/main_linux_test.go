// Package hostile gives svcproxy objects that nobody should write, by the thousand: through the whole path
// into a real kernel, in namespaces of its own, with healthy Services among them that must go on. Its fuzz
// targets take the same path as far as it needs no kernel.
package hostile

import (
	"testing"

	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
