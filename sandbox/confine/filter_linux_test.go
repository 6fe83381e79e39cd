package confine

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// verdict interprets the program as the kernel would and returns 0 or the errno that
// the system call gets.
func verdict(t *testing.T, program []bpf.Instruction, auditArch, number uint32, args ...uint64) unix.Errno {
	t.Helper()
	// struct seccomp_data on a little-endian machine, each word in the byte order that
	// the VM, made for packets, loads.
	words := []uint32{number, auditArch, 0, 0}
	for i := range 6 {
		var arg uint64
		if i < len(args) {
			arg = args[i]
		}
		words = append(words, uint32(arg), uint32(arg>>32))
	}
	var data []byte
	for _, w := range words {
		data = binary.BigEndian.AppendUint32(data, w)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	result, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	switch action := uint32(result) &^ 0xffff; action {
	case unix.SECCOMP_RET_ALLOW:
		return 0
	case unix.SECCOMP_RET_ERRNO:
		return unix.Errno(result & 0xffff)
	default:
		t.Fatalf("system call %d: action %#x", number, action)
		return 0
	}
}

func program(t *testing.T, capabilities ...string) []bpf.Instruction {
	t.Helper()
	p, err := defaultProgram(append(DefaultCapabilities(), capabilities...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultFilterAnswersSystemCalls(t *testing.T) {
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER
	for _, test := range []struct {
		call         string
		args         []uint64
		want         unix.Errno
		capabilities []string
	}{
		{call: "read"},
		{call: "execve"},
		{call: "chroot"}, // CAP_SYS_CHROOT is a default one
		{call: "ptrace"},
		{call: "mount", want: unix.EPERM},
		{call: "mount", capabilities: []string{"CAP_SYS_ADMIN"}},
		{call: "pivot_root", want: unix.EPERM},
		{call: "unshare", want: unix.EPERM},
		{call: "setns", want: unix.EPERM},
		{call: "keyctl", want: unix.EPERM},
		{call: "bpf", want: unix.EPERM},
		{call: "bpf", capabilities: []string{"CAP_BPF"}},
		{call: "io_uring_setup", want: unix.EPERM},
		{call: "open_by_handle_at", want: unix.EPERM},
		{call: "pidfd_getfd", want: unix.EPERM},
		{call: "pidfd_getfd", capabilities: []string{"CAP_SYS_PTRACE"}},
		{call: "clone", args: []uint64{unix.CLONE_VM | unix.CLONE_THREAD}},
		{call: "clone", args: []uint64{namespaces}, want: unix.EPERM},
		{call: "clone", args: []uint64{unix.CLONE_NEWUSER}, want: unix.EPERM},
		{call: "clone", args: []uint64{1<<32 | unix.CLONE_NEWUSER}, want: unix.EPERM},
		{call: "clone", args: []uint64{1 << 32}},
		{call: "clone", args: []uint64{namespaces}, capabilities: []string{"CAP_SYS_ADMIN"}},
		{call: "clone3", want: unix.ENOSYS},
		{call: "clone3", capabilities: []string{"CAP_SYS_ADMIN"}},
		{call: "personality", args: []uint64{0}},
		{call: "personality", args: []uint64{0x20008}},
		{call: "personality", args: []uint64{0x0040000}, want: unix.EPERM}, // ADDR_NO_RANDOMIZE
		{call: "personality", args: []uint64{1<<32 | 0x20008}, want: unix.EPERM},
		{call: "socket", args: []uint64{unix.AF_UNIX}},
		{call: "socket", args: []uint64{unix.AF_INET6}},
		{call: "socket", args: []uint64{unix.AF_PACKET}},
		{call: "socket", args: []uint64{unix.AF_VSOCK}, want: unix.EPERM},
		{call: "socket", args: []uint64{unix.AF_ALG}, want: unix.EPERM},
		{call: "socket", args: []uint64{1<<32 | unix.AF_INET}, want: unix.EPERM},
	} {
		number, ok := nativeArch(t).SyscallNames[test.call]
		if !ok {
			t.Fatalf("no system call %s", test.call)
		}
		got := verdict(t, program(t, test.capabilities...), uint32(nativeArch(t).ID), uint32(number), test.args...)
		if got != test.want {
			t.Errorf("%s%v with %v: %v, want %v", test.call, test.args, test.capabilities, got, test.want)
		}
	}
}

func nativeArch(t *testing.T) *arch.Info {
	t.Helper()
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestDefaultFilterRefusesOtherArchitectures(t *testing.T) {
	p := program(t)
	for name, number := range arch.I386.SyscallNames {
		if got := verdict(t, p, uint32(arch.I386.ID), uint32(number)); got != unix.EPERM {
			t.Errorf("i386 %s: %v, want EPERM", name, got)
		}
	}
	for name, number := range arch.X32.SyscallNames {
		if got := verdict(t, p, uint32(arch.X32.ID), uint32(number|arch.X32.SeccompMask)); got != unix.ENOSYS {
			t.Errorf("x32 %s: %v, want ENOSYS", name, got)
		}
	}
}

func TestDefaultFilterKnowsNoNewerSystemCalls(t *testing.T) {
	p := program(t)
	newest := 0
	for number := range nativeArch(t).SyscallNumbers {
		newest = max(newest, number)
	}
	for _, number := range []uint32{uint32(newest + 1), 0x3fffffff, 0x80000000, 0xffffffff} {
		if got := verdict(t, p, uint32(nativeArch(t).ID), number); got != unix.ENOSYS {
			t.Errorf("system call %d: %v, want ENOSYS", number, got)
		}
	}
}

// The program is long and full of jumps: for each number and arguments around those
// that rules speak of it must say what the profile's rules say, read one by one.
func TestDefaultFilterIsTheProfile(t *testing.T) {
	for _, capabilities := range [][]string{nil, {"CAP_SYS_ADMIN"}, {"CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_DAC_READ_SEARCH"}} {
		bounding := append(DefaultCapabilities(), capabilities...)
		profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
			Capabilities: &specs.LinuxCapabilities{Bounding: bounding},
		}})
		if err != nil {
			t.Fatal(err)
		}
		p := program(t, capabilities...)
		random := rand.New(rand.NewPCG(1, 2))
		for number, name := range nativeArch(t).SyscallNumbers {
			for _, arg := range argumentsFor(profile.Syscalls, name, random) {
				want := answer(profile.Syscalls, name, arg)
				if got := verdict(t, p, uint32(nativeArch(t).ID), uint32(number), arg...); got != want {
					t.Errorf("%s%x with %v: %v, the profile says %v", name, arg, capabilities, got, want)
				}
			}
		}
	}
}

// argumentsFor are none, and those around the values of each condition.
func argumentsFor(rules []specs.LinuxSyscall, name string, random *rand.Rand) [][]uint64 {
	all := [][]uint64{make([]uint64, 6)}
	for _, rule := range rules {
		if !slices.Contains(rule.Names, name) {
			continue
		}
		for _, c := range rule.Args {
			for _, value := range []uint64{c.Value, c.Value - 1, c.Value + 1, ^c.Value, c.Value | 1<<32, c.Value & random.Uint64(), random.Uint64()} {
				args := make([]uint64, 6)
				args[c.Index] = value
				all = append(all, args)
			}
		}
	}
	return all
}

// answer is what the rules say: the first that applies, EPERM if none does.
func answer(rules []specs.LinuxSyscall, name string, args []uint64) unix.Errno {
	for _, rule := range rules {
		applies := slices.Contains(rule.Names, name)
		for _, c := range rule.Args {
			applies = applies && holds(c, args[c.Index])
		}
		switch {
		case !applies:
		case rule.Action == specs.ActAllow:
			return 0
		default:
			return unix.Errno(*rule.ErrnoRet)
		}
	}
	return unix.EPERM
}

func holds(c specs.LinuxSeccompArg, value uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return value == c.Value
	case specs.OpLessThan:
		return value < c.Value
	case specs.OpMaskedEqual:
		return value&c.Value == c.ValueTwo
	}
	panic("no condition " + c.Op)
}

func TestConditionsWithoutTranslationAreErrors(t *testing.T) {
	for _, rule := range []specs.LinuxSyscall{
		{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: 3, ValueTwo: 1, Op: specs.OpMaskedEqual}}},
		{Names: []string{"clone"}, Action: specs.ActTrace},
	} {
		if groups, err := groupsOf([]specs.LinuxSyscall{rule}, nativeArch(t).SyscallNames); err == nil {
			t.Errorf("%+v became %+v", rule, groups)
		}
	}
}

func TestFilterIsCompiledOnce(t *testing.T) {
	one, err := defaultFilter([]string{"CAP_CHOWN", "CAP_KILL"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := defaultFilter([]string{"CAP_KILL", "CAP_CHOWN"})
	if err != nil {
		t.Fatal(err)
	}
	if &one[0] != &other[0] {
		t.Error("the same capabilities were compiled twice")
	}
	if allocs := testing.AllocsPerRun(10, func() { _, _ = defaultFilter([]string{"CAP_CHOWN", "CAP_KILL"}) }); allocs > 20 {
		t.Errorf("%v allocations for a filter that is there", allocs)
	}
}

func BenchmarkCompileDefaultFilter(b *testing.B) {
	for b.Loop() {
		clear(filters.byCapabilities)
		if _, err := defaultFilter(DefaultCapabilities()); err != nil {
			b.Fatal(err)
		}
	}
}
