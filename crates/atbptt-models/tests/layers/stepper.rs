//! One step at a time: the stack's answers, without an allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use crate::common::{assert_close, devices, noise, noise_tensor, values, with_noise};
use atbptt_models::{
    GruLayer, LstmLayer, MinGruLayer, ModelError, RecurrentLayer, RnnLayer, Stack, StackConfig,
    Stepper,
};
use burn::tensor::{DType, Device, Tensor};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<R>(of: impl FnOnce() -> R) -> (R, usize) {
    let before = ALLOCATIONS.get();
    let result = of();
    (result, ALLOCATIONS.get() - before)
}

const STEPS: usize = 6;

/// Input features, hidden units, layers, sequences: less than a register, several panels, more rows than a tile.
const SIZES: [[usize; 4]; 4] = [[3, 5, 1, 1], [4, 70, 2, 3], [33, 16, 1, 30], [1, 1, 3, 2]];

fn stack<L: RecurrentLayer>(
    [inputs, hidden, layers, _]: [usize; 4],
    bias: bool,
    device: &Device,
) -> Stack<L> {
    let config = StackConfig::<L>::new(inputs, hidden).with_layers(layers);
    let stack = config.with_bias(bias).init(device).unwrap();
    with_noise(stack, 7, 1.0 / (hidden as f64).sqrt(), DType::F32)
}

/// The input of step `t`, `[batch, input]`, of `[batch, time, input]`.
fn at(input: &Tensor<3>, t: usize) -> Vec<f32> {
    let [batch, _, inputs] = input.dims();
    let step = input.clone().slice([0..batch, t..t + 1, 0..inputs]);
    values(step).into_iter().map(|value| value as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Against a window run as one, from zero and from the state in its middle. Sums are in another order: ten roundings of values of
/// order one.
fn answers_as_the_stack<L: RecurrentLayer>(device: &Device) {
    for size in SIZES {
        for bias in [true, false] {
            let [inputs, hidden, _, batch] = size;
            let stack = stack::<L>(size, bias, device);
            let input = noise_tensor(1, [batch, STEPS, inputs], 1.0, device, DType::F32);
            let (expected, _) = stack.forward(input.clone(), None).unwrap();
            let expected = |t| values(expected.clone().slice([0..batch, t..t + 1, 0..hidden]));
            let mut stepper = Stepper::new(&stack, batch).unwrap();
            for again in 0..2 {
                for t in 0..STEPS {
                    let got = wide(stepper.step(&at(&input, t)).unwrap());
                    let what = format!("{} {size:?}, step {t}, run {again}", L::NAME);
                    assert_close(&what, &got, &expected(t), 1e-6);
                }
                stepper.reset();
            }
            let half = input.clone().slice([0..batch, 0..STEPS / 2, 0..inputs]);
            let (_, state) = stack.forward(half, None).unwrap();
            stepper.set_state(&state).unwrap();
            let got = wide(stepper.step(&at(&input, STEPS / 2)).unwrap());
            assert_close("from a state", &got, &expected(STEPS / 2), 1e-6);
        }
    }
}

#[test]
fn a_stepper_answers_as_the_stack_does() {
    for (name, device) in devices() {
        eprintln!("{name}");
        answers_as_the_stack::<LstmLayer>(&device);
        answers_as_the_stack::<GruLayer>(&device);
        answers_as_the_stack::<RnnLayer>(&device);
        answers_as_the_stack::<MinGruLayer>(&device);
    }
}

#[test]
fn a_step_allocates_nothing() {
    let device = Device::default();
    let size = [24, 96, 2, 4];
    let mut steppers = [
        Stepper::new(&stack::<LstmLayer>(size, true, &device), 4).unwrap(),
        Stepper::new(&stack::<GruLayer>(size, true, &device), 4).unwrap(),
        Stepper::new(&stack::<RnnLayer>(size, true, &device), 4).unwrap(),
        Stepper::new(&stack::<MinGruLayer>(size, true, &device), 4).unwrap(),
    ];
    let input: Vec<f32> = noise(3, 4 * 24).into_iter().map(|x| x as f32).collect();
    let (_, counted) = allocations(|| black_box(vec![0u8; 9]));
    assert_eq!(counted, 1, "the counter counts");
    for stepper in &mut steppers {
        let ((), counted) = allocations(|| {
            for _ in 0..10 {
                black_box(stepper.step(&input).unwrap());
            }
            stepper.reset();
        });
        assert_eq!(counted, 0, "{stepper:?}");
    }
}

#[test]
fn what_does_not_fit_a_stepper_is_an_error() {
    let device = Device::default();
    let size = [3, 5, 2, 2];
    let lstm = stack::<LstmLayer>(size, true, &device);
    let none = Stepper::new(&lstm, 0).unwrap_err();
    assert!(
        none.to_string()
            .starts_with("batch must be at least one, got 0"),
        "{none}"
    );
    let empty = Stack {
        layers: Vec::<LstmLayer>::new(),
        ..lstm.clone()
    };
    let none = Stepper::new(&empty, 1).unwrap_err();
    assert!(
        none.to_string()
            .starts_with("layers must be at least one, got 0"),
        "{none}"
    );
    let mut stepper = Stepper::new(&lstm, 2).unwrap();
    let first = stepper.step(&[0.5; 6]).unwrap().to_vec();
    stepper.reset();
    for wrong in [0, 3, 5, 7] {
        let error = stepper.step(&vec![0.0; wrong]).unwrap_err();
        let shape = matches!(&error, ModelError::Shape { got, .. } if *got == [wrong]);
        assert!(shape, "{error}");
    }
    let zeros = |batch| lstm.zero_state(batch, &device);
    assert!(stepper.set_state(&zeros(3)).is_err(), "other sequences");
    assert!(stepper.set_state(&zeros(2)[..1]).is_err(), "a layer less");
    let gru = stack::<GruLayer>(size, true, &device);
    let error = stepper.set_state(&gru.zero_state(2, &device)).unwrap_err();
    assert!(error.to_string().contains("[2] parts"), "{error}");
    assert_eq!(
        stepper.step(&[0.5; 6]).unwrap(),
        first,
        "errors change nothing"
    );
}
