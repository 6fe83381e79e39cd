package main

import (
	"fmt"

	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// logFlags say what is logged, to standard error.
type logFlags struct {
	level  string
	format string
}

func (f *logFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.level, "log-level", "info", "least severe messages to log: debug, info, warn or error")
	flags.StringVar(&f.format, "log-format", "text", "form of the log: text or json")
}

// logger makes the process's logger and sends client-go's messages (klog) through it.
func (f *logFlags) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(f.level)
	if err != nil {
		return nil, unknown("log-level", f.level, "debug, info, warn or error")
	}
	c := zap.NewProductionConfig()
	c.Level = zap.NewAtomicLevelAt(level)
	c.Sampling = nil
	c.DisableStacktrace = true
	c.DisableCaller = true
	c.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	switch f.format {
	case "json":
	case "text":
		c.Encoding = "console"
		c.EncoderConfig.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		c.EncoderConfig.EncodeLevel = zapcore.CapitalLevelEncoder
		c.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	default:
		return nil, unknown("log-format", f.format, "text or json")
	}
	log, err := c.Build()
	if err != nil {
		return nil, fmt.Errorf("building the logger: %w", err)
	}
	klog.SetLoggerWithOptions(zapr.NewLogger(log.Named("client-go")), klog.ContextualLogger(true))
	return log, nil
}
