package sandboxcmd

import (
	"testing"

	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
