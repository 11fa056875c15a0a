"""How long, how exactly, and what to keep; the keys are explained in tcm_d2/config/defaults.py."""

train = dict(
    output_dir="output",
    # File to start from or to evaluate (MODEL.WEIGHTS); "" keeps the model as it is built.
    init_checkpoint="",
    # None: CUDA where there is one. A device that is named has to be there.
    device=None,
    # -1 draws one, and lets CUDA be as fast as it can.
    seed=-1,
    cudnn_benchmark=False,
    # Epochs; turned into iterations by the data set's size and the batch. 0: the next four.
    max_epochs=12,
    step_epochs=[9],
    checkpoint_period_epochs=1,
    eval_period_epochs=0,
    # Iterations, with max_epochs=0. A period of 0 is only at the end.
    max_iter=40000,
    steps=[30000],
    checkpoint_period=5000,
    eval_period=0,
    # Newest periodic checkpoints to keep; 0 keeps all.
    checkpoints_to_keep=0,
    # Evaluations in a row without a better AP after which training ends; 0 is never.
    early_stop_patience=0,
    log_period=20,
    # Iterations between pictures of predictions in TensorBoard; 0 is never.
    vis_period=0,
    # dtype: "float16" (CUDA, with loss scaling) or "bfloat16" (CUDA or CPU).
    amp=dict(enabled=False, dtype="float16"),
    # Passes in which each process does its share of a batch.
    accumulation_steps=1,
    # Decay of the moving average of the weights; 0 is off.
    ema_decay=0.0,
    # A loss that is not finite: "stop" or "skip".
    on_non_finite="stop",
)
