package iptables

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"svcproxy/plan"
)

var (
	// ErrUnavailable says that a node cannot run this IP family in iptables mode: the program is not
	// installed, or the kernel lacks the family or its tables.
	ErrUnavailable = errors.New("iptables is unavailable")
	// ErrPermission says that iptables needs CAP_NET_ADMIN and CAP_NET_RAW.
	ErrPermission = errors.New("permission denied; iptables needs CAP_NET_ADMIN, and on the legacy kernel API CAP_NET_RAW")
	// errTooLong says that a transaction exceeds what the socket's buffer may hold (EMSGSIZE).
	errTooLong = errors.New("the transaction exceeds the socket's buffer, which net.core.wmem_max limits without CAP_NET_ADMIN in the first user namespace")
	// ErrUnreadable says that iptables on the nf_tables kernel API prints nothing of a table, since somebody
	// has put rules there by other means, such as nft, that it does not know.
	ErrUnreadable = errors.New("iptables cannot read the table, as somebody else's rules in it were not made with iptables")
	// ErrLocked says that another program held the xtables lock for too long.
	ErrLocked = errors.New("the xtables lock is held by another program")
)

// symptoms are what iptables 1.8 writes when no rule is at fault, in lower case.
var symptoms = []struct {
	text string
	err  error
}{
	{"permission denied", ErrPermission},
	{"operation not permitted", ErrPermission},
	{"xtables lock", ErrLocked},
	{"do you need to insmod", ErrUnavailable},
	{"table does not exist", ErrUnavailable},
	{"protocol not supported", ErrUnavailable},
	{"address family not supported", ErrUnavailable},
	{"cannot allocate memory", errors.New("out of memory")},
	{"memory allocation problem", errors.New("out of memory")},
	{"no buffer space", errors.New("out of buffer space")},
	{"message too long", errTooLong},
	{"unable to initialize table", errors.New("the table cannot be initialized, for want of permission or of a kernel module")},
	{"resource temporarily unavailable", errors.New("resource temporarily unavailable")},
	{"interrupted system call", errors.New("interrupted")},
}

// symptom returns what an error message of iptables means, if no rule is at fault, or nil.
func symptom(stderr string) error {
	lower := strings.ToLower(stderr)
	for _, s := range symptoms {
		if strings.Contains(lower, s.text) {
			return s.err
		}
	}
	return nil
}

// atLine finds the line of the input that iptables-restore says is at fault. The legacy kernel API names the
// line of COMMIT where the kernel refuses.
var atLine = regexp.MustCompile(`(?i)\bline:? (\d+)`)

// refused interprets the failure of iptables-restore, given what it read and wrote. It is a
// *plan.RefusedError unless something else than the input is at fault.
func refused(err error, stderr string, input []byte) error {
	stderr = strings.TrimSpace(stderr)
	if cause := symptom(stderr); cause != nil {
		return fmt.Errorf("%w (%w: %s)", cause, err, stderr)
	}
	detail := stderr
	if m := atLine.FindStringSubmatch(stderr); m != nil {
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			detail = fmt.Sprintf("%s: %q", stderr, lineOf(input, n))
		}
	}
	return &plan.RefusedError{Err: fmt.Errorf("%w: %s", err, detail)}
}

// lineOf returns line n of the input, the first being 1.
func lineOf(input []byte, n int) string {
	for line := range strings.Lines(string(input)) {
		if n--; n == 0 {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
