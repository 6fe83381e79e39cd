package main

import (
	"fmt"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"svcproxy/conntrack"
)

// sysctlFlags are kube-proxy's flags for the kernel's settings of connection tracking.
type sysctlFlags struct{ sysctls conntrack.Sysctls }

func (f *sysctlFlags) register(flags *pflag.FlagSet) {
	s, d := &f.sysctls, conntrack.DefaultSysctls
	flags.IntVar(&s.MaxPerCore, "conntrack-max-per-core", d.MaxPerCore, "connections to track for each processor; 0 leaves the limit as it is")
	flags.IntVar(&s.Min, "conntrack-min", d.Min, "connections to track at least, unless --conntrack-max-per-core is 0")
	flags.DurationVar(&s.TCPEstablished, "conntrack-tcp-timeout-established", d.TCPEstablished, "how long an idle TCP connection is remembered; 0 leaves it as it is")
	flags.DurationVar(&s.TCPCloseWait, "conntrack-tcp-timeout-close-wait", d.TCPCloseWait, "how long a TCP connection that one side closed is remembered; 0 leaves it as it is")
	flags.BoolVar(&s.TCPBeLiberal, "conntrack-tcp-be-liberal", d.TCPBeLiberal, "take TCP packets that are out of window for valid")
	flags.DurationVar(&s.UDP, "conntrack-udp-timeout", d.UDP, "how long a UDP flow without an answer is remembered; 0 leaves it as it is")
	flags.DurationVar(&s.UDPStream, "conntrack-udp-timeout-stream", d.UDPStream, "how long a UDP flow with answers is remembered; 0 leaves it as it is")
}

// check finds values that make no sense.
func (f *sysctlFlags) check() error {
	s := f.sysctls
	for _, v := range []struct {
		flag  string
		value int64
	}{
		{"conntrack-max-per-core", int64(s.MaxPerCore)}, {"conntrack-min", int64(s.Min)},
		{"conntrack-tcp-timeout-established", int64(s.TCPEstablished)},
		{"conntrack-tcp-timeout-close-wait", int64(s.TCPCloseWait)},
		{"conntrack-udp-timeout", int64(s.UDP)},
		{"conntrack-udp-timeout-stream", int64(s.UDPStream)},
	} {
		if v.value < 0 {
			return usageError{fmt.Errorf("--%s: negative", v.flag)}
		}
	}
	return nil
}

// apply sets them. What can't be set is told and no more: Services work all the same.
func (f *sysctlFlags) apply(netns string, log *zap.Logger) {
	if err := f.sysctls.Apply(netns); err != nil {
		log.Warn("some settings of connection tracking stay as they are", zap.Error(err))
	}
}
