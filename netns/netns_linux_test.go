package netns_test

import (
	"errors"
	"os"
	"testing"

	"svcproxy/netns"
	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestDoIsInsideAndComesBack(t *testing.T) {
	ns := nstest.New(t)
	want, err := ns.ID()
	if err != nil {
		t.Fatal(err)
	}
	var got string
	if err := netns.Do(ns.Path(), func() error { got, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("inside: got %s, want %s", got, want)
	}
	nstest.Require(t)
}

func TestDoNamesThePathThatIsNoNamespace(t *testing.T) {
	for _, path := range []string{"/nowhere", "/proc/self/exe"} {
		err := netns.Do(path, func() error { t.Error("called"); return nil })
		if err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestIPv6CanBeDisabled(t *testing.T) {
	ns := nstest.New(t)
	if err := netns.CheckIPv6(ns.Path()); err != nil {
		t.Fatalf("with IPv6: %v", err)
	}
	if err := ns.SetSysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	if err := netns.CheckIPv6(ns.Path()); !errors.Is(err, netns.ErrNoIPv6) {
		t.Errorf("disabled: got %v, want ErrNoIPv6", err)
	}
}
