package iptables

import (
	"errors"
	"strings"
	"testing"

	"svcproxy/plan"
)

// TestFailures holds what the programs of iptables 1.8.9 write, on both kernel APIs.
func TestFailures(t *testing.T) {
	input := []byte("*nat\n:X - [0:0]\n-A X -p tcp --dport 99999 -j RETURN\nCOMMIT\n")
	for stderr, want := range map[string]error{
		"Fatal: can't open lock file /run/xtables.lock: Permission denied":                                                                                ErrPermission,
		"iptables-nft-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)":                           ErrPermission,
		"Can't lock /run/xtables.lock: Resource temporarily unavailable\nAnother app is currently holding the xtables lock. Stopped waiting after 1s.":    ErrLocked,
		"iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)":                                  ErrUnavailable,
		"sendmsg() failed: Message too long\niptables-nft-restore: line 503 failed: Message too long.":                                                    errTooLong,
		"iptables-restore: line 4 failed: Cannot allocate memory":                                                                                         nil,
		"iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'\nError occurred at line: 1\nTry `iptables-restore -h' or …": nil,
		"iptables-nft-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (No buffer space available): rule in chain X":                              nil,
	} {
		err := refused(errors.New("exit status 4"), stderr, input)
		var refused *plan.RefusedError
		if errors.As(err, &refused) {
			t.Errorf("%q is nobody's fault, but gives %v", stderr, err)
		}
		if want != nil && !errors.Is(err, want) {
			t.Errorf("%q gives %v, want %v", stderr, err, want)
		}
	}
	for _, stderr := range []string{
		"iptables-restore v1.8.9 (legacy): invalid port/service `99999' specified\nError occurred at line: 3\nTry `iptables-restore -h' or …",
		"iptables-nft-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (Invalid argument): rule in chain X",
		"iptables-restore: line 3 failed",
	} {
		err := refused(errors.New("exit status 1"), stderr, input)
		var refused *plan.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), `"-A X -p tcp --dport 99999 -j RETURN"`) {
			t.Errorf("%q gives %v, want a RefusedError with the line", stderr, err)
		}
	}
}
