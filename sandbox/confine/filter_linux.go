package confine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unsafe"

	bpfpolicy "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	dataNumber = 0
	dataArch   = 4
)

// filters are the compiled default filters of this process by capabilities, since a
// process that starts many programs mostly starts them with the same ones.
var filters = struct {
	sync.Mutex
	byCapabilities map[string][]unix.SockFilter
}{byCapabilities: map[string][]unix.SockFilter{}}

// defaultFilter is moby's default profile for a program with the capabilities as the
// kernel wants it.
func defaultFilter(capabilities []string) ([]unix.SockFilter, error) {
	capabilities = slices.Sorted(slices.Values(capabilities))
	key := strings.Join(slices.Compact(capabilities), ",")
	filters.Lock()
	defer filters.Unlock()
	if filter, ok := filters.byCapabilities[key]; ok {
		return filter, nil
	}
	program, err := defaultProgram(capabilities)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	filters.byCapabilities[key] = filter
	return filter, nil
}

// defaultProgram translates moby's default profile. What the profile does not name is
// answered with EPERM, save system calls newer than any table here, which are
// answered with ENOSYS, so that programs fall back to older ones. Calls by another
// architecture's numbers (32-bit programs) are refused whole: by socketcall and ipc
// they would get round the conditions on arguments.
func defaultProgram(capabilities []string) ([]bpf.Instruction, error) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: capabilities},
	}})
	if err != nil {
		return nil, fmt.Errorf("read the default profile: %w", err)
	}
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("find the numbers of system calls: %w", err)
	}
	groups, err := groupsOf(profile.Syscalls, native.SyscallNames)
	if err != nil {
		return nil, err
	}
	policy := bpfpolicy.Policy{DefaultAction: bpfpolicy.ActionErrno, Syscalls: groups}
	program, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("translate the default profile: %w", err)
	}
	newest := slices.Max(slices.Collect(maps.Keys(native.SyscallNumbers)))
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: dataArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(native.ID), SkipTrue: 3},
		bpf.LoadAbsolute{Off: dataNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: uint32(newest), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(errnoAction(unix.ENOSYS))},
	}, program...), nil
}

func errnoAction(errno unix.Errno) bpfpolicy.Action {
	return bpfpolicy.ActionErrno | bpfpolicy.Action(errno)
}

// groupsOf makes one group of rules for each action. It leaves out system calls that
// this architecture does not have, and conditions on a call that another rule with
// the same action takes unconditionally.
func groupsOf(rules []specs.LinuxSyscall, numbers map[string]int) ([]bpfpolicy.SyscallGroup, error) {
	var groups []bpfpolicy.SyscallGroup
	groupOf := func(action bpfpolicy.Action) *bpfpolicy.SyscallGroup {
		i := slices.IndexFunc(groups, func(g bpfpolicy.SyscallGroup) bool { return g.Action == action })
		if i < 0 {
			i = len(groups)
			groups = append(groups, bpfpolicy.SyscallGroup{Action: action})
		}
		return &groups[i]
	}
	for _, rule := range rules {
		action, err := actionOf(rule)
		if err != nil {
			return nil, err
		}
		conditions, err := conditionsOf(rule)
		if err != nil {
			return nil, err
		}
		group := groupOf(action)
		for _, name := range rule.Names {
			switch _, known := numbers[name]; {
			case !known || slices.Contains(group.Names, name):
			case len(conditions) == 0:
				group.Names = append(group.Names, name)
			default:
				group.NamesWithCondtions = append(group.NamesWithCondtions, bpfpolicy.NameWithConditions{Name: name, Conditions: conditions})
			}
		}
	}
	for i, group := range groups {
		groups[i].NamesWithCondtions = slices.DeleteFunc(group.NamesWithCondtions, func(c bpfpolicy.NameWithConditions) bool {
			return slices.Contains(group.Names, c.Name)
		})
	}
	return groups, nil
}

func actionOf(rule specs.LinuxSyscall) (bpfpolicy.Action, error) {
	switch {
	case rule.Action == specs.ActAllow:
		return bpfpolicy.ActionAllow, nil
	case rule.Action == specs.ActErrno && rule.ErrnoRet != nil:
		return errnoAction(unix.Errno(*rule.ErrnoRet)), nil
	case rule.Action == specs.ActErrno:
		return errnoAction(unix.EPERM), nil
	}
	return 0, fmt.Errorf("default profile: %v: no translation of the action %s", rule.Names, rule.Action)
}

// operations are the comparisons that BPF programs are made of by the same name.
var operations = map[specs.LinuxSeccompOperator]bpfpolicy.Operation{
	specs.OpEqualTo:      bpfpolicy.Equal,
	specs.OpNotEqual:     bpfpolicy.NotEqual,
	specs.OpLessThan:     bpfpolicy.LessThan,
	specs.OpLessEqual:    bpfpolicy.LessOrEqual,
	specs.OpGreaterThan:  bpfpolicy.GreaterThan,
	specs.OpGreaterEqual: bpfpolicy.GreaterOrEqual,
}

// conditionsOf are all to hold for the rule to apply.
func conditionsOf(rule specs.LinuxSyscall) (bpfpolicy.ArgumentConditions, error) {
	var conditions bpfpolicy.ArgumentConditions
	for _, arg := range rule.Args {
		operation, ok := operations[arg.Op]
		if arg.Op == specs.OpMaskedEqual && arg.ValueTwo == 0 {
			operation, ok = bpfpolicy.BitsNotSet, true
		}
		if !ok {
			return nil, fmt.Errorf("default profile: %v: no translation of the condition %+v", rule.Names, arg)
		}
		conditions = append(conditions, bpfpolicy.Condition{Argument: uint32(arg.Index), Operation: operation, Value: arg.Value})
	}
	return conditions, nil
}

// install puts the filter on the calling thread.
func install(filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("install the seccomp filter: %w", errno)
	}
	return nil
}
